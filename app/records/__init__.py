"""The data in Redis: keys, rates, usage, the journal. The only package that imports redis."""
