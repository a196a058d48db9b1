"""Questions with verifiable answers, how they are asked, and what an answer is worth."""
