"""A page and a record that explain a subset: what was kept and dropped of a pool, against chance and other subsets."""
