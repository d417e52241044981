"What turns notebooks, modules and tables of results into the site."
