"""What a sweep ends with: the choice of a trial, its result on test, the report."""
