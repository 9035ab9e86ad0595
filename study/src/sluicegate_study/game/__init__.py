"""Quiz bowl: buzzing, bots, games and teams."""
