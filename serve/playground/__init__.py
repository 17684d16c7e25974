"""The playground: a page on which served models are tried, compared and watched."""
