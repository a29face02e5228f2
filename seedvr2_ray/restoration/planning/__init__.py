"""What will be done, decided before anything is: segments, sizes, memory, time."""
