"""What accompanies the pictures: sound, subtitles, captions, and the one clock that all of it keeps."""
