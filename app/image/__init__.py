"""Which format a file has, and whether its image is whole.

The only wing that imports Pillow, simplejpeg and libvips.
"""
