"""What accompanies the pictures: sound, subtitles, captions."""
