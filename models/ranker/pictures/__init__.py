"""Picture features, one file each: how pictures enter a ranker."""
