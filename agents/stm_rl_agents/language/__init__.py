"""Language models that decide what to remember by calling tools, trained with TRL."""
