"""From raw downloads to single cells: reading plates, matching, segmenting, cutting, writing."""
