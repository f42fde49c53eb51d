"""Reports: what a compile did and cost, as data, JSON, terminal tables, HTML and a Chrome trace."""
