"""The exchange between the view stream and the time stream after a layer: hard or soft synchronisation."""
