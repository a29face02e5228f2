"""SwiftVR (arXiv:2606.09516): one-step restoration of video streams, written from the paper and public facts."""
