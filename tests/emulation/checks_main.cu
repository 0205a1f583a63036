// Runs the case named by the argument.
#include "emulation/checks.h"

int main(int count, char** names) {
    const auto found = checks::cases().find(count > 1 ? names[1] : "");
    if (found == checks::cases().end()) return 2;
    found->second();
    return 0;
}
