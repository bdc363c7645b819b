"""What a file is, and that it is whole: the only importer of Pillow, simplejpeg, libvips."""
