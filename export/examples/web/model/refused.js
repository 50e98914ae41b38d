/** An error that the user can act on: its message is a sentence for the page. */
export class Refused extends Error {
    name = "Refused";
}
