"""Whether a scene reads like its genre, judged by its words alone.

Each genre has one scenario, so a classifier of genres cannot be tested on a genre that it learned. The genres are put into ten
moods instead. Of the authored scenes of the training families the classifier learns their casts rather than their moods (the report
says how little it then knows of other families), so it learns from the choice deck: the name of each genre and three cards, which
stand in no scenario and which no model is trained on. It is tested on authored scenes of the families that never train.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from shared.data import read_yaml
from shared.errors import UserError

from .engines.choices import DECK
from .scenarios import Scenario

MOODS = {
    "magic": "fantasy, magic school, witch apprentice, dragon riders, fairy tale retold, dream world, monster taming, "
    "reincarnated villain, guild receptionist",
    "spirits": "yokai, shrine guardian, ghost story, library, body swap",
    "machines": "mecha, android, robotics club, cyberpunk, steampunk, virtual reality, superhero",
    "stars and sky": "alien contact, space opera, astronomy, sky islands, parallel worlds",
    "play": "gaming isekai, card battle, chess, board games, dungeon crawl, sports, racing",
    "school and stage": "art club, school festival, student council, newspaper club, theater, idol music",
    "home and heart": "slice of life, bakery, cat cafe, cooking, farm life, family drama, romance, rivals to friends, time loop, "
    "train journey",
    "sea": "deep sea, pirates, underwater kingdom, treasure hunt",
    "wild": "desert caravan, mountain climbing, survival, post-apocalypse, lost city",
    "intrigue": "detective mystery, heist, spy, courtroom, ninja, samurai",
}
MOOD_OF = {genre: mood for mood, genres in MOODS.items() for genre in genres.split(", ")}


def mood(genre: str) -> str:
    """Raises UserError for a genre that is in no mood."""
    if genre not in MOOD_OF:
        raise UserError(f"the genre {genre!r} is in no mood: add it to MOODS in genre.py")
    return MOOD_OF[genre]


class Moods:
    """TF-IDF of words and logistic regression, each mood weighted alike."""

    def __init__(self, texts: Sequence[str], genres: Sequence[str]):
        labels = [mood(genre) for genre in genres]
        if len(set(labels)) < 2:
            raise UserError("the texts have a single mood: there is nothing to tell apart")
        vectors = TfidfVectorizer(sublinear_tf=True, stop_words="english")
        self._model = make_pipeline(vectors, LogisticRegression(C=10, class_weight="balanced", max_iter=1000)).fit(texts, labels)

    @classmethod
    def of_cards(cls) -> "Moods":
        """Taught by the choice deck: a genre's name, twice, and its cards."""
        cards = {genre: cards for genre, cards in read_yaml(DECK).items() if genre != "any"}
        return cls([". ".join([genre, genre, *texts]) for genre, texts in cards.items()], list(cards))

    @classmethod
    def of_scenes(cls, training: Sequence[Scenario]) -> "Moods":
        """Taught by authored scenes."""
        pairs = [(scene.text, scenario.genre) for scenario in training for scene in scenario.scenes.values()]
        return cls(*map(list, zip(*pairs, strict=True)))

    def right(self, scenes: Sequence[str], genres: Sequence[str]) -> np.ndarray:
        """For each scene whether its mood is that of its genre, (scenes,) bool."""
        return self._model.predict(list(scenes)) == np.array([mood(genre) for genre in genres])
