using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Devices.Gpu;
using Wayleave.Host.Objects;
using Wayleave.Host.Runners;

namespace Wayleave.Host.Benchmarks.Copies;

/// <summary>One end of the copies of an engine: memory of a device, with the engine attached and mapped.</summary>
internal sealed class CopyEnd
{
    private readonly HostContext _host;
    private readonly CopyMemory _memory;
    private CopyUser? _user;

    private CopyEnd(HostContext host, CopyMemory memory) => (_host, _memory) = (host, memory);

    public SharedBuffer Buffer => _memory.Shared;

    public CopyUser User => _user!;

    /// <summary>Where the processor finds the memory.</summary>
    public DmaAddressList Physical => _memory.Addresses();

    /// <summary>Borrows memory, waits until it is cleared, and maps it for an engine.</summary>
    /// <exception cref="WayleaveException">No room, or no way from the engine to the memory.</exception>
    public static async Task<CopyEnd> OpenAsync(HostContext host, CopyPlace place, GpuDevice engine, ulong sizeBytes)
    {
        string operation = $"take {ByteSize.ToText((long)sizeBytes)} of {place.Name} for {engine.Function.Name}";
        CopyEnd end = new(host, await place.TakeAsync(engine, sizeBytes, operation).ConfigureAwait(false));
        try
        {
            await end.MapAsync(engine, operation).ConfigureAwait(false);
            return end;
        }
        catch
        {
            await end.CloseAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Lets go of the memory and waits until its owner has it back; no copy is under way.</summary>
    public async Task CloseAsync()
    {
        if (_user is { } user)
        {
            AcquireTicket ticket = await LockAsync("lets go").ConfigureAwait(false);
            using (_host.Enter())
            {
                user.DetachLocked(ticket);
                Buffer.Reservation.Unlock(ticket);
            }
        }

        RevokePolicy policy = new() { Reason = "the benchmark has ended" };
        await OwnerWait.AwaitAsync(_host, () => _memory.Free(policy)).ConfigureAwait(false);
    }

    private async Task MapAsync(GpuDevice engine, string operation)
    {
        using (_host.Enter())
        {
            CopyUser.TryCreate(engine, Buffer, out _user).ThrowIfFailed(operation);
        }

        AcquireTicket ticket = await LockAsync("maps").ConfigureAwait(false);
        try
        {
            await Buffer.Reservation.WaitAsync(_host, ReservationUsage.Kernel, ticket).ConfigureAwait(false);
            using (_host.Enter())
            {
                _user!.TryMapLocked(ticket).ThrowIfFailed(operation);
            }
        }
        finally
        {
            using (_host.Enter())
            {
                Buffer.Reservation.Unlock(ticket);
            }
        }
    }

    private async Task<AcquireTicket> LockAsync(string why)
    {
        AcquireTicket ticket;
        using (_host.Enter())
        {
            ticket = new AcquireTicket(_host, $"bench copy {why}");
        }

        await Buffer.Reservation.LockAsync(_host, ticket).ConfigureAwait(false);
        return ticket;
    }
}
