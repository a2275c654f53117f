"""A folder of runs as a whole: turns to change it, index, trash, stored experts, archives, migrations, the doctor."""
