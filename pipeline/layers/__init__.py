"""Where a layer's output goes, and the layer as a linear map."""
