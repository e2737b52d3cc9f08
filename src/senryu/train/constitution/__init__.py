"""Constitutional AI: a file of principles, judges that hold answers against them, and the rows that training gets from both.

After Bai et al. 2022 (arXiv 2212.08073): answer -> critique -> revision, then comparisons; every step is a JSONL to read.
"""
