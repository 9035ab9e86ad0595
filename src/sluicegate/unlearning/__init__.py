"""Take knowledge out: suppress it, then distil so that it is gone."""
