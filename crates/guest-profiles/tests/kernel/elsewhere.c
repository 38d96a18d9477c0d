/* Another file of the same kernel: it defines what the first one only declares. */

struct everything;
struct elsewhere { long first; char second[40]; };
struct elsewhere elsewhere_object;

void use_elsewhere(struct everything *everything)
{
	elsewhere_object.first = (long)everything;
}
