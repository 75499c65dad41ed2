"""General questions and general text about nobody's private life, written for this project.

The questions serve as surrogates and as the gate's negatives in front of real models; the text
measures whether general language suffers (perplexity). Neither is anybody's retained data.
"""

QUESTIONS: tuple[str, ...] = (
    "What is photosynthesis?",
    "Why is the sky blue?",
    "How do bees make honey?",
    "What is the boiling point of water?",
    "How many days are in a leap year?",
    "What is the capital of Portugal?",
    "What is the capital of Norway?",
    "What is the capital of Canada?",
    "What is the capital of Egypt?",
    "What is the capital of Greece?",
    "In which country is the city of Kyoto?",
    "In which ocean does Hawaii lie?",
    "What language do people speak in Brazil?",
    "What is the currency of the United Kingdom?",
    "Which planet is known as the Red Planet?",
    "Which planet has the most visible rings?",
    "Which gas do plants take in from the air?",
    "What is the chemical symbol for iron?",
    "What is the chemical symbol for oxygen?",
    "How many sides does a hexagon have?",
    "What is seven times eight?",
    "What is the square root of 81?",
    "Who wrote The Count of Monte Cristo?",
    "Who wrote Robinson Crusoe?",
    "Who wrote Gulliver's Travels?",
    "Who wrote Faust?",
    "Who wrote Les Misérables?",
    "Who wrote The Metamorphosis?",
    "Who wrote Middlemarch?",
    "Who wrote Little Women?",
    "Who wrote The Raven?",
    "Who wrote The Jungle Book?",
    "Who wrote Peter Pan?",
    "Who wrote The Little Prince?",
    "Who wrote Ulysses?",
    "Who wrote The Origin of Species?",
    "Who is the author of The Call of the Wild?",
    "Who is the author of Around the World in Eighty Days?",
    "Who is the author of The Name of the Rose?",
    "Who painted Water Lilies?",
    "Who painted The Kiss?",
    "Who painted Las Meninas?",
    "Who composed The Blue Danube?",
    "Who composed Carmen?",
    "Who composed the Brandenburg Concertos?",
    "Who invented the printing press?",
    "Who invented the steam engine?",
    "Who discovered the structure of DNA?",
    "Who discovered X-rays?",
    "Who was the first woman to fly across the Atlantic?",
    "Who was the second president of the United States?",
    "Who was Napoleon Bonaparte?",
    "Who was Cleopatra?",
    "Who was Marie Curie?",
    "Who was Mahatma Gandhi?",
    "Which school did Plato found?",
    "What is the name of Don Quixote's horse?",
    "Who are the main characters of The Three Musketeers?",
    "Who is the main villain of Star Wars?",
    "Who is the villain of Peter Pan?",
    "Who is the best friend of Sherlock Holmes?",
    "What is the name of the ship of Captain Nemo?",
    "What is a sonnet?",
    "What is a haiku?",
    "What is the difference between a novel and a play?",
    "What is a metaphor?",
    "Can you give me a tip for writing a short story?",
    "How do I cook rice?",
    "How do I remove a coffee stain?",
    "What should I pack for a day of hiking?",
    "Can you suggest a name for a cat?",
    "What is machine learning?",
    "What does a database do?",
    "How does a bicycle stay upright?",
    "Why do leaves change colour in autumn?",
    "What causes the tides?",
    "What is inflation in economics?",
    "What was the Industrial Revolution?",
    "When did the Second World War end?",
    "Where is the Great Barrier Reef?",
)

TEXT: tuple[str, ...] = (
    "Water covers about seventy percent of the surface of the Earth. Most of it is salt water in "
    "the oceans, and only a small part is fresh water in rivers, lakes, ice and the ground.",
    "A bridge must carry its own weight as well as the weight of everything that crosses it. "
    "Engineers choose between beams, arches and cables according to the length of the span.",
    "Bread is one of the oldest prepared foods. Flour, water, salt and yeast are mixed into a "
    "dough, which rises while the yeast turns sugar into gas, and is then baked in a hot oven.",
    "The moon goes around the Earth in a little less than a month. Its pull raises the tides, "
    "which come in and go out about twice a day along most coasts.",
    "A library collects books and other records and lends them to its readers. Catalogues help "
    "to find a title by its author, its subject or the place where it stands on the shelf.",
    "Plants make sugar from water and carbon dioxide with the energy of sunlight. Oxygen is left "
    "over and goes into the air, where animals and people breathe it in.",
    "Trains run on rails, which let heavy loads roll with little friction. The first railways "
    "carried coal from mines to the nearest harbour, and passengers came later.",
    "Before clocks were common, people told the time by the height of the sun. A sundial shows "
    "the hour by the shadow of a rod on a plate that is marked with lines.",
    "Rain forms when moist air rises and cools. The vapour gathers into small drops, the drops "
    "grow, and when they are too heavy to float they fall to the ground.",
    "The human heart beats about seventy times a minute when the body rests. It pumps blood "
    "through the lungs, where it takes up oxygen, and then through the rest of the body.",
    "Paper is made from fibres of wood or cloth. The fibres are soaked and beaten to a pulp, "
    "spread on a screen so that the water can drain, then pressed and dried.",
    "In a market, buyers and sellers meet to exchange goods for money. When many people want a "
    "thing that is rare, its price goes up; when there is plenty, the price goes down.",
    "A compass needle turns until it points north, because the Earth itself is a weak magnet. "
    "Sailors have used it for about a thousand years to keep their course at night.",
    "Volcanoes open where hot rock from below finds a way to the surface. Lava and ash build up "
    "a mountain over the years, and the soil around it is often rich and good for farming.",
    "Glass is made by melting sand with soda and lime. While it is hot it can be blown, poured or "
    "rolled into sheets, and when it has cooled it is hard, clear and easy to break.",
    "Birds that fly south in autumn find their way by the sun, the stars and the shape of the "
    "land. Some of them cross a whole ocean without stopping to rest.",
    "A computer program is a list of instructions that a machine follows one after the other. "
    "Even a small mistake in one of them can change the result of the whole.",
    "Schools teach children to read, to write and to count. In many countries everyone has to go "
    "to school for nine or ten years, and a large part of the young people stay longer.",
    "Iron rusts when it is left in damp air. Paint, oil or a thin coat of zinc keeps the water "
    "away from the metal, so that a fence or a ship lasts for many more years.",
    "The letters of the alphabet stand for sounds. With fewer than thirty signs one can write "
    "down every word of a language, and that is why writing could spread so far.",
)
