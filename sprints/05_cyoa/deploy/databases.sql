-- the tracker's tables stand apart from the game's: both count their migrations in a table of the same name
CREATE DATABASE mlflow;
