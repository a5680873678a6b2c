"""What may be wrong with a folder of photos: bad files, duplicates, odd pictures, wrong labels."""
