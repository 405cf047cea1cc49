"""Classic control, batched: CartPole, Acrobot, MountainCarContinuous and Pendulum, step-equal to Gymnasium's."""
import math

import torch
from torch import Tensor

from labkit.worlds.registry import register
from labkit.worlds.world import Continuous, Discrete, State, World

TURN = 2 * math.pi


class Control(World):
    """A body that moves by physics until it terminates or `horizon` steps have passed.

    The state holds `body` (L, E, D), positions and velocities in SI units (radians for angles), and `t` (L, E), the steps taken.
    A subclass writes `start` and `move`. Body and reward have the precision of the noise handed to `reset`. Gymnasium's dynamics
    are taken over with their constants, so a policy trained here can be scored there.
    """

    obs_low: tuple[float, ...]  # least and greatest value of each observed number, obs_size of them
    obs_high: tuple[float, ...]

    def start(self, u: Tensor) -> Tensor:
        """First bodies: u (L, E, reset_noise) in [0, 1) -> (L, E, D)."""
        raise NotImplementedError

    def move(self, body: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Body (L, E, D) and action -> next body, reward (L, E), terminated (L, E) bool."""
        raise NotImplementedError

    def reset(self, u: Tensor) -> State:
        return {"body": self.start(u), "t": torch.zeros(u.shape[:2], dtype=torch.int64, device=u.device)}

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        body, reward, terminated = self.move(state["body"], action)
        t = state["t"] + 1
        return {"body": body, "t": t}, reward, terminated, t >= self.horizon

    def observe(self, state: State) -> Tensor:
        return state["body"].float()


@register("control.cartpole")
class CartPole(Control):
    """Balance a pole on a cart by pushing left (0) or right (1); reward 1 a step. Barto, Sutton and Anderson (1983).

    Body and observation: cart position, its velocity, pole angle, its velocity. Ends beyond 2.4 m or 12 degrees.
    """

    key = "control.cartpole"
    obs_size, actions, horizon, reset_noise = 4, Discrete(2), 500, 4
    # a speed v needs v^2 / (2 a) of way: 4.8 m at most 10 m/s^2, 24 degrees at most 18.2 rad/s^2, and one step over
    obs_low, obs_high = (-4.8, -12.0, -24 * TURN / 360, -6.0), (4.8, 12.0, 24 * TURN / 360, 6.0)

    gravity, pole, total, half, push, tau = 9.8, 0.1, 1.1, 0.5, 10.0, 0.02  # m/s^2, kg, kg, m, N, s
    far, tilted = 2.4, 12 * TURN / 360

    def start(self, u: Tensor) -> Tensor:
        return u * 0.1 - 0.05

    def move(self, body: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, v, angle, spin = body.unbind(-1)
        sin, cos, arm = angle.sin(), angle.cos(), self.pole * self.half / self.total
        shove = torch.add(-self.push / self.total + arm * spin.square() * sin, action, alpha=2 * self.push / self.total)
        turn = (self.gravity * sin - cos * shove) / (self.half * 4 / 3 - self.half * self.pole / self.total * cos.square())
        rate = torch.stack((v, shove - arm * turn * cos, spin, turn), -1)
        body = body.add(rate, alpha=self.tau)
        terminated = (body[..., 0].abs() > self.far) | (body[..., 2].abs() > self.tilted)
        return body, torch.ones_like(x), terminated


@register("control.acrobot")
class Acrobot(Control):
    """Swing the tip of a two-link arm above the bar with a torque of -1, 0 or 1 at its elbow; reward -1 a step. Sutton (1996).

    Body: angle of the first link (0 hangs), of the second against the first, and their velocities; integrated by one
    Runge-Kutta step of 0.2 s. Observation: cosine and sine of both angles, both velocities.
    """

    key = "control.acrobot"
    obs_size, actions, horizon, reset_noise = 6, Discrete(3), 500, 4
    obs_high = (1.0, 1.0, 1.0, 1.0, 2 * TURN, 4.5 * TURN)
    obs_low = tuple(-high for high in obs_high)
    dt = 0.2

    def start(self, u: Tensor) -> Tensor:
        return u * 0.2 - 0.1

    def move(self, body: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        torque = action - 1
        k1 = self.rate(body, torque)
        k2 = self.rate(body.add(k1, alpha=self.dt / 2), torque)
        k3 = self.rate(body.add(k2, alpha=self.dt / 2), torque)
        k4 = self.rate(body.add(k3, alpha=self.dt), torque)
        first, second, spin1, spin2 = body.add(k1 + 2 * (k2 + k3) + k4, alpha=self.dt / 6).unbind(-1)
        first, second = wrapped(first), wrapped(second)
        body = torch.stack((first, second, spin1.clamp(-2 * TURN, 2 * TURN), spin2.clamp(-4.5 * TURN, 4.5 * TURN)), -1)
        terminated = first.cos() + (first + second).cos() < -1
        return body, terminated.to(body.dtype) - 1, terminated

    @staticmethod
    def rate(body: Tensor, torque: Tensor) -> Tensor:
        """Velocities and accelerations (L, E, 4), Sutton and Barto (2018) example 11.3: links of 1 kg and 1 m, inertia 1."""
        first, second, spin1, spin2 = body.unbind(-1)
        sin, cos = second.sin(), second.cos()
        d1, d2 = 3.5 + cos, 1.25 + 0.5 * cos
        phi2 = 4.9 * (first + second).sin()
        phi1 = phi2 + 14.7 * first.sin() - (0.5 * spin2 + spin1) * spin2 * sin
        share = d2 / d1
        turn2 = (torque + share * phi1 - 0.5 * spin1.square() * sin - phi2) / (1.25 - share * d2)
        return torch.stack((spin1, spin2, -(d2 * turn2 + phi1) / d1, turn2), -1)

    def observe(self, state: State) -> Tensor:
        first, second, spin1, spin2 = state["body"].float().unbind(-1)
        return torch.stack((first.cos(), first.sin(), second.cos(), second.sin(), spin1, spin2), -1)


@register("control.mountaincar")
class MountainCar(Control):
    """Rock a weak car out of a valley with a force in [-1, 1]; 100 at the flag, minus a tenth of the force squared a step. Moore (1990).

    Body and observation: position and velocity. As in Gymnasium, a larger force is clipped but paid for in full.
    """

    key = "control.mountaincar"
    obs_size, actions, horizon, reset_noise = 2, Continuous(1, -1.0, 1.0), 999, 1
    obs_low, obs_high = (-1.2, -0.07), (0.6, 0.07)
    flag, power, slope = 0.45, 0.0015, 0.0025

    def start(self, u: Tensor) -> Tensor:
        x = u * 0.2 - 0.6
        return torch.cat((x, torch.zeros_like(x)), -1)

    def move(self, body: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, v = body.unbind(-1)
        force = action[..., 0]
        v = (v + self.power * force.clamp(-1, 1) - self.slope * (3 * x).cos()).clamp(self.obs_low[1], self.obs_high[1])
        x = (x + v).clamp(self.obs_low[0], self.obs_high[0])
        v = v.masked_fill((x <= self.obs_low[0]) & (v < 0), 0.0)  # the left wall is inelastic
        terminated = (x >= self.flag) & (v >= 0)
        return torch.stack((x, v), -1), 100 * terminated - 0.1 * force.square(), terminated


@register("control.pendulum")
class Pendulum(Control):
    """Swing a pendulum up and hold it there with a torque in [-2, 2]; never terminates.

    Body: angle (0 is upright; it counts whole turns) and velocity. Observation: cosine, sine, velocity. Reward: minus the sum
    of angle squared (within half a turn), a tenth of velocity squared and a thousandth of torque squared, before the step.
    """

    key = "control.pendulum"
    obs_size, actions, horizon, reset_noise = 3, Continuous(1, -2.0, 2.0), 200, 2
    obs_low, obs_high = (-1.0, -1.0, -8.0), (1.0, 1.0, 8.0)
    gravity, dt = 10.0, 0.05  # a rod of 1 kg and 1 m

    def start(self, u: Tensor) -> Tensor:
        return (2 * u - 1) * u.new_tensor((math.pi, 1.0))

    def move(self, body: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        angle, spin = body.unbind(-1)
        torque = action[..., 0].clamp(self.actions.low, self.actions.high)
        cost = wrapped(angle).square() + 0.1 * spin.square() + 0.001 * torque.square()
        turn = 1.5 * self.gravity * angle.sin() + 3 * torque
        spin = spin.add(turn, alpha=self.dt).clamp(self.obs_low[2], self.obs_high[2])
        body = torch.stack((angle.add(spin, alpha=self.dt), spin), -1)
        return body, -cost, torch.zeros_like(spin, dtype=torch.bool)

    def observe(self, state: State) -> Tensor:
        angle, spin = state["body"].float().unbind(-1)
        return torch.stack((angle.cos(), angle.sin(), spin), -1)


def wrapped(angle: Tensor) -> Tensor:
    """The same direction within [-pi, pi)."""
    return (angle + math.pi).remainder(TURN) - math.pi
