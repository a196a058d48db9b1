"""Questions with verifiable answers, how they are asked, and how answers are scored."""
