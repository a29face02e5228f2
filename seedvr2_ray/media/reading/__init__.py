"""Any frames of a source, exactly those: found, proved, deinterlaced and given as R'G'B'."""
