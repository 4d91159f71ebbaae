"""One HTML page about a pipeline's runs that opens without a network: `gather` reads, `charts` draws, `page` writes."""
