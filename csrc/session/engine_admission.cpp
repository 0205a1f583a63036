// The engine's part in admission: memory is found for the one that comes next, in this order: what
// cached prefixes hold, what idle sessions hold, and what streams of less priority or age hold.
#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "session/engine.h"
#include "session/session.h"

namespace gptoss {
namespace {

// For what computes nothing, and does not wait in the line.
constexpr auto kRoomWithin = std::chrono::seconds(2);

}  // namespace

std::shared_ptr<Reservation> Engine::reserve(const void* who, int priority) {
    return {new Reservation(who, priority), [line = admission_](Reservation* ended) {
                line->release(*ended);
                delete ended;
            }};
}

void Engine::admit(Reservation& reservation, const AdmissionCall& call, const Interrupt& pause) {
    Admission::Place place(*admission_, reservation);
    for (;;) {
        if (admission_->next(reservation)) {
            bool admitted = false;
            {
                const PromptWaits waits(*this, reservation.priority());
                step([&](Model& model) { admitted = try_admit(model, reservation, call); });
            }
            if (admitted) return;
        }
        place.enter();
        if (pause) pause();
        if (admission_->take_give_way(reservation)) step(call.spill);
        admission_->wait(kLook);
    }
}

bool Engine::try_admit(Model& model, Reservation& reservation, const AdmissionCall& call) {
    const bool was_active = admission_->active(reservation);
    if (!admission_->activate(reservation)) return false;
    try {
        const size_t missing = call.missing(model), before = admission_->promise(reservation, 0);
        if (make_room(model, missing, reservation)) {
            admission_->promise(reservation, missing);
            model.forget_next();
            call.take(model);
            return true;
        }
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
    for (;;) {
        bool done = false;
        const PromptWaits waits(*this, 0);
        step([&](Model& model) {
            done = make_room(model, call.missing(model), *reservation);
            if (!done) return;
            model.forget_next();
            call.take(model);
        });
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

bool Engine::make_room(Model& model, size_t bytes, const Reservation& reservation) {
    while (!spare(bytes))
        if (!spill_one(model, reservation)) return false;
    return true;
}

// False if there is nothing to be had now; some may be later, from those who were asked.
bool Engine::spill_one(Model& model, const Reservation& reservation) {
    std::vector<std::shared_ptr<Session>> sessions;
    for (const auto& known : sessions_)
        if (auto session = known.lock(); session && session.get() != reservation.who())
            sessions.push_back(std::move(session));
    std::sort(sessions.begin(), sessions.end(),
              [](const auto& a, const auto& b) { return a->last_used() < b->last_used(); });
    for (const auto& session : sessions)
        if (session->spill_if_idle(model)) return true;
    admission_->ask_to_give_way(reservation);
    return admission_->revoke_one(reservation);
}

}  // namespace gptoss
