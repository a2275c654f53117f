"""A folder of runs as a whole: whose turn it is to change it, the trash."""
