"""What makes jobs happen: claims, fair shares, dispatch, retention, notifications."""
