"""Nothing to configure: the plugin registers itself through its entry point."""
