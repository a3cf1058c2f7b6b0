"""Pure renderers: a frame and a size in, a canvas of cells out. No widgets, no state."""
