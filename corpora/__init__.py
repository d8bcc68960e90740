"""Raw corpora: their layouts, and the data root that is made of one."""
