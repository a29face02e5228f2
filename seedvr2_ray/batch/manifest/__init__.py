"""What an archive is made of: rows of a manifest or files of a folder, checked and cut into shards."""
