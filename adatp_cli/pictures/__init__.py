"""Pictures of what a model looked at: a contact sheet, a page with a slider, a film."""
