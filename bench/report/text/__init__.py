"""What a report says: leaderboards, the verdict, and the sections below them."""
