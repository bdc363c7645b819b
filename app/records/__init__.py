"""What Redis holds: keys, rates, usage, the journal; the only importer of redis."""
