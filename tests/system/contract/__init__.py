"""Every layer, operation and architecture that Keras offers goes through."""
