"""Measuring hand-crafted features on images; `util.cell_features` calls it."""
