"""What a run says about itself: figures, pictures, the report page."""
