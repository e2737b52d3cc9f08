"""Its being here puts this directory on the import path: `serving` is shared by the tests of service/ and api/."""
