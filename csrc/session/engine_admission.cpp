// The engine's part in admission: memory is found for the one that comes next, in this order: what
// cached prefixes hold, what idle sessions hold, and what streams of less priority or age hold.
#include <algorithm>
#include <utility>

#include "base/error.h"
#include "session/engine.h"
#include "session/session.h"

namespace gptoss {
namespace {

// For what computes nothing, and does not wait in the line.
constexpr auto kRoomWithin = std::chrono::seconds(2);
// Of one that comes next, before it gives up what is its own.
constexpr int kAttempts = 3;

}  // namespace

std::shared_ptr<Reservation> Engine::reserve(const void* who, int priority) {
    return {new Reservation(who, priority), [line = admission_](Reservation* ended) {
                line->release(*ended);
                delete ended;
            }};
}

void Engine::admit(Reservation& reservation, const AdmissionCall& call, const Interrupt& pause) {
    Admission::Place place(*admission_, reservation);
    for (int attempts = 0;;) {
        if (admission_->next(reservation)) {
            bool admitted = false;
            {
                const PromptWaits waits(*this, reservation.priority());
                step([&](Model& model) {
                    admitted = try_admit(model, reservation, call, attempts++);
                });
            }
            if (admitted) return;
        }
        place.enter();
        if (pause) {
            const CallingBack calling(*this);
            pause();
        }
        if (admission_->to_give_way(reservation)) {
            step(call.spill);
            admission_->gave_way(reservation);
        }
        admission_->wait(kLook);
    }
}

bool Engine::try_admit(Model& model, Reservation& reservation, const AdmissionCall& call,
                       int attempts) {
    const bool was_active = admission_->active(reservation);
    if (!admission_->activate(reservation)) return false;
    const size_t before = admission_->promise(reservation, 0);
    try {
        // Others that were asked to make room have done so by now.
        const bool alone = attempts >= kAttempts && admission_->counts().active == 1;
        if (make_room(model, reservation, call, alone)) {
            admission_->promise(reservation, call.missing(model));
            model.forget_next();
            call.take(model);
            return true;
        }
        call.withdraw();
        admission_->promise(reservation, before);
    } catch (...) {
        admission_->release(reservation);
        throw;
    }
    if (!was_active) admission_->release(reservation);
    return false;
}

void Engine::admit_at_once(const void* who, const AdmissionCall& call) {
    const auto reservation = reserve(who, 0);
    admission_->next(*reservation);
    const auto end = Clock::now() + kRoomWithin;
    for (int attempts = 0;; ++attempts) {
        bool done = false;
        {
            const PromptWaits waits(*this, 0);
            step([&](Model& model) {
                const bool alone = attempts >= kAttempts && admission_->counts().active == 0;
                done = make_room(model, *reservation, call, alone);
                if (!done) return;
                model.forget_next();
                call.take(model);
            });
        }
        if (done) return;
        if (Clock::now() > end)
            throw EngineBusy(message("the caches may take ", budget_->limit(),
                                     " bytes, and others go on with them; try again later"));
        admission_->wait(kLook);
    }
}

EngineUse Engine::use() const {
    const Admission::Counts counts = admission_->counts();
    return {budget_->limit(),   budget_->used(),   admission_->promised(),
            budget_->spilled(), prefixes_.limit(), prefixes_.bytes(),
            prefixes_.size(),   counts.active,     counts.waiting};
}

bool Engine::spare(size_t bytes) {
    while (budget_->used() + admission_->promised() + bytes > budget_->limit())
        if (!prefixes_.evict()) return false;
    return true;
}

// What is missing changes with what is given up: a page that a prefix shares has to be copied. One
// that is alone has nobody to wait for, and gives up what it can.
bool Engine::make_room(Model& model, const Reservation& reservation, const AdmissionCall& call,
                       bool alone) {
    while (!spare(call.missing(model)))
        if (!spill_one(model, reservation) &&
            !(alone && (call.shrink() || prefixes_.drop_oldest())))
            return false;
    return true;
}

// False if there is nothing to be had now; some may be later, from those who were asked.
bool Engine::spill_one(Model& model, const Reservation& reservation) {
    std::vector<std::pair<int64_t, std::shared_ptr<Session>>> sessions;  // by when they were used
    for (const auto& known : sessions_)
        if (auto session = known.lock(); session && session.get() != reservation.who()) {
            const int64_t used = session->last_used();
            sessions.emplace_back(used, std::move(session));
        }
    std::sort(sessions.begin(), sessions.end());
    for (const auto& [used, session] : sessions)
        if (session->spill_if_idle(model)) return true;
    admission_->ask_to_give_way(reservation);
    return admission_->revoke_one(reservation);
}

}  // namespace gptoss
