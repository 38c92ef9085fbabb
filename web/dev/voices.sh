#!/bin/sh
# Makes the synthetic voices with flite: the page's sample questions (committed) and what the
# development server answers (not committed). Run it in web/.
set -eu
say() { flite -voice "$1" -t "$3" -o "$2"; }
mkdir -p public/questions dev/voices
say slt public/questions/capital.wav "What is the capital of Peru?"
say rms public/questions/currency.wav "Which currency do they use in Japan?"
say awb public/questions/element.wav "When was helium discovered?"
say slt dev/voices/greeting.wav "Hello. What would you like to know?"
say slt dev/voices/capital.wav "Let me look. The capital of Peru is Lima. It lies by the sea, and about ten million people live there."
say slt dev/voices/currency.wav "In Japan they pay with the yen."
say slt dev/voices/element.wav "Helium was discovered in eighteen sixty eight."
