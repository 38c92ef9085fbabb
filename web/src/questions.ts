/** Questions spoken by synthetic voices (flite), for visitors without a microphone. */

export interface Question {
  text: string;
  file: string;
  voice: string;
}

export const QUESTIONS: readonly Question[] = [
  { text: "What is the capital of Peru?", file: "questions/capital.wav", voice: "slt" },
  { text: "Which currency do they use in Japan?", file: "questions/currency.wav", voice: "rms" },
  { text: "When was helium discovered?", file: "questions/element.wav", voice: "awb" },
];
