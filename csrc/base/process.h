// Whether this is still the process an object was made in. A forked child has the object's memory
// but not its threads, and locks that a vanished thread held stay locked for ever.
#pragma once

#include <unistd.h>

#include "base/error.h"

namespace gptoss {

class HomeProcess {
  public:
    bool left() const { return getpid() != id_; }
    // Throws DeviceError in a forked child; to be called before any lock is taken.
    void check() const {
        if (left())
            throw DeviceError(
                "this process was forked after the model was loaded, and threads do not survive a "
                "fork; load the model in the child");
    }

  private:
    const pid_t id_ = getpid();
};

}  // namespace gptoss
