using Wayleave.Core;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Devices.Ethernet;
using Wayleave.Host.Objects;

namespace Wayleave.Host.Ethernet;

/// <summary>Binds objects of a host to its NICs, and lets go of them. Called with no lock and no token.</summary>
internal static class NetBinding
{
    /// <summary>Binds with the reservation held, or says what to wait for.</summary>
    internal delegate BindOutcome Bind<T>(AcquireTicket ticket, out T? binding);

    /// <summary>Binds an object to receive queues; waits while its memory moves.</summary>
    /// <exception cref="WayleaveException">What the NIC, the route or the owner says against it.</exception>
    public static Task<MemoryBinding> BindReceiveAsync(
        WayleaveHost host, EthernetHandle nic, DeviceObject o, BindRequest request) => BindAsync(
            host,
            o,
            $"bind {o} to queue {string.Join(", ", request.Queues)} of {nic.Name}",
            UnderToken(nic, (AcquireTicket ticket, out MemoryBinding? binding) =>
                nic.Nic.Device.BindLocked(ticket, o.Buffer, request, out binding)));

    /// <summary>Binds an object to be sent from; waits while its memory moves.</summary>
    /// <exception cref="WayleaveException">As <see cref="BindReceiveAsync"/>.</exception>
    public static Task<TransmitBinding> BindTransmitAsync(
        WayleaveHost host, EthernetHandle nic, DeviceObject o, BindRequest request) => BindAsync(
            host,
            o,
            $"bind {o} to be sent by {nic.Name}",
            UnderToken(nic, (AcquireTicket ticket, out TransmitBinding? binding) =>
                nic.Nic.Device.BindTransmitLocked(ticket, o.Buffer, request, out binding)));

    /// <summary>Ends when nothing is left of a binding.</summary>
    /// <param name="host">Whose lock it needs.</param>
    /// <param name="tryAddReleased"><see cref="MemoryBinding.TryAddReleased"/> of it.</param>
    public static Task WhenReleased(HostContext host, Func<Action, bool> tryAddReleased)
    {
        TaskCompletionSource released = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (host.Enter())
        {
            return tryAddReleased(released.SetResult) ? released.Task : Task.CompletedTask;
        }
    }

    /// <summary>Runs a bind with the reservation of an object held; again, when its memory moved.</summary>
    /// <exception cref="WayleaveException">What the outcome says.</exception>
    internal static async Task<T> BindAsync<T>(WayleaveHost host, DeviceObject o, string operation, Bind<T> bind)
        where T : class
    {
        while (true)
        {
            AcquireTicket ticket;
            using (host.Context.Enter())
            {
                ticket = new AcquireTicket(host.Context, operation);
            }

            await o.Buffer.Reservation.LockAsync(host.Context, ticket).ConfigureAwait(false);
            T? binding = null;
            BindOutcome outcome;
            try
            {
                outcome = bind(ticket, out binding);
            }
            finally
            {
                using (host.Context.Enter())
                {
                    o.Buffer.Reservation.Unlock(ticket);
                }
            }

            if (outcome.Wait is { } fence)
            {
                await WhenSignaled(host.Context, fence).ConfigureAwait(false);
                continue;
            }

            return outcome.Errno == Errno.Success
                ? binding!
                : throw new WayleaveException(outcome.Errno, operation, outcome.Explanation);
        }
    }

    private static Bind<T> UnderToken<T>(EthernetHandle nic, Bind<T> bind)
        where T : class =>
        (AcquireTicket ticket, out T? binding) =>
        {
            T? made = null;
            BindOutcome outcome = nic.Nic.Driver.WithToken(() => bind(ticket, out made));
            binding = made;
            return outcome;
        };

    /// <summary>Ends when a fence has signalled, whatever its error.</summary>
    public static Task WhenSignaled(HostContext host, Fence fence)
    {
        TaskCompletionSource signaled = new(TaskCreationOptions.RunContinuationsAsynchronously);
        using (host.Enter())
        {
            return fence.TryAddCallback(_ => signaled.SetResult()) == Errno.Success
                ? signaled.Task
                : Task.CompletedTask;
        }
    }
}
