using System.Buffers.Binary;
using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Topology;

namespace Wayleave.Devices.Nvme;

/// <summary>Where a driver is on its way to a usable drive.</summary>
public enum NvmeDriverState
{
    Stopped,

    /// <summary>CC.EN is written; CSTS.RDY is not read yet.</summary>
    Enabling,

    /// <summary>The completion queue is being created.</summary>
    CreatingCompletions,

    /// <summary>The submission queue is being created.</summary>
    CreatingSubmissions,
    Ready,

    /// <summary>CC.EN is cleared; CSTS.RDY is not read as 0 yet.</summary>
    Resetting,

    /// <summary>The controller failed, or refused what every controller must do.</summary>
    Failed,
}

// The host's side of a controller, as drivers/nvme/host/pci.c: one I/O queue pair, its memory in one window:
//
//   0x0000 admin submissions (64)   0x1000 admin completions (64)   0x2000 submissions (128)   0x4000 completions (128)
//   0x5000 one page of PRP or SGL entries for each of 127 commands, and behind them a page of zeros

// As nvme_timeout(): a command that is late is aborted, and has its time once more. If it has not ended then, the
// controller is taken down, which ends every command and is the proof that none does DMA, and started again. An Abort
// that found nothing, because its command waits in the queue, is sent again when another command has ended.

/// <summary>
/// The host's driver of an <see cref="NvmeController"/>: enables it, makes a queue pair, sends commands and tells how
/// they ended. Every member is called with the host lock held.
/// </summary>
public sealed class NvmeDriver : IStoppableEngine
{
    /// <summary>Commands that may be under way at once; a ring has one empty slot.</summary>
    public const int CommandsMax = Depth - 1;

    /// <summary>What the queues and lists need.</summary>
    public const int MemoryBytes = ZerosOffset + PageBytes;

    private const int AdminDepth = 64;
    private const int Depth = 128;
    private const int AdminCompletionsOffset = 0x1000;
    private const int SubmissionsOffset = 0x2000;
    private const int CompletionsOffset = 0x4000;
    private const int ListsOffset = 0x5000;
    private const int ZerosOffset = ListsOffset + (CommandsMax * PageBytes);
    private const int PageBytes = 4096;
    private const int AbortedCommand = 0x8000; // in the number of an Abort: the rest is the slot it is about
    private const int AbortTries = 2;

    private readonly HostContext _host;
    private readonly NvmeController _controller;
    private readonly string _completions;
    private readonly Memory<byte> _memory;
    private readonly DmaAddressList _addresses;
    private readonly NvmeTransfer?[] _transfers = new NvmeTransfer?[CommandsMax];
    private readonly Stack<int> _slots = new(Enumerable.Range(0, CommandsMax).Reverse());
    private Ring _admin = new(AdminDepth);
    private Ring _io = new(Depth);
    private bool _restarts; // after a reset that a late command brought about
    private Action? _changed;
    private Action? _roomMade;

    /// <param name="host">Whose lock guards it; held by the caller.</param>
    /// <param name="fabric">Where the queue memory becomes reachable for the controller.</param>
    /// <param name="controller">Not enabled; nobody else drives its registers.</param>
    /// <param name="memory"><see cref="MemoryBytes"/> of system memory, zeroed; the caller keeps it alive.</param>
    public NvmeDriver(HostContext host, PciFabric fabric, NvmeController controller, Memory<byte> memory)
    {
        ArgumentNullException.ThrowIfNull(host);
        ArgumentNullException.ThrowIfNull(fabric);
        host.AssertHeld();
        ArgumentOutOfRangeException.ThrowIfLessThan(memory.Length, MemoryBytes);
        (_host, _controller, _memory) = (host, controller, memory);
        _completions = $"{controller.Function.Name} completions";
        Hangs = new HangDetector(host, CommandTimeout, ResetTimeout);
        DmaAddressList physical = new([fabric.AddWindow(memory, owner: null).Range]);
        Errno errno = fabric.TryMap(controller.Function, physical, out DmaAddressList? addresses);
        _addresses = errno == Errno.Success
            ? addresses!
            : throw new InvalidOperationException($"the queues of {controller.Function} cannot be mapped: {errno}");
    }

    /// <summary>How long a command may take (<c>nvme_core.io_timeout</c>).</summary>
    public static readonly TimeSpan CommandTimeout = TimeSpan.FromSeconds(30);

    /// <summary>How long a reset may take (CAP.TO).</summary>
    public static readonly TimeSpan ResetTimeout = TimeSpan.FromSeconds(10);

    public NvmeDriverState State
    {
        get;
        private set
        {
            field = value;
            Tell(ref _changed);
            Tell(ref _roomMade); // or nobody will ever have room again: who waits looks
        }
    }

    /// <summary>
    /// Watches the fences of those who send commands, who add theirs. The edge calls
    /// <see cref="HangDetector.HandleTimeout"/> when <see cref="HangDetector.NextDeadline"/> has passed, from another
    /// thread than the one that polls.
    /// </summary>
    public HangDetector Hangs { get; }

    string IStoppableEngine.Name => _controller.Function.Name;

    /// <summary>Transfers that have not ended.</summary>
    public int Outstanding { get; private set; }

    /// <summary>Whether <see cref="TrySubmit"/> would take another one.</summary>
    public bool HasRoom => State == NvmeDriverState.Ready && _slots.Count > 0;

    /// <summary>
    /// Runs <paramref name="callback"/> once, at the next change of <see cref="State"/>, after the lock was released.
    /// </summary>
    public void ObserveChange(Action callback)
    {
        _host.AssertHeld();
        _changed += callback;
    }

    /// <summary>
    /// Runs <paramref name="callback"/> once, after the lock was released, when a command has ended or the state has
    /// changed: who met EAGAIN tries again.
    /// </summary>
    public void ObserveRoom(Action callback)
    {
        _host.AssertHeld();
        _roomMade += callback;
    }

    /// <summary>Enables a stopped controller; <see cref="Poll"/> goes on from there.</summary>
    public void Start()
    {
        _host.AssertHeld();
        if (State != NvmeDriverState.Stopped)
        {
            throw new InvalidOperationException($"the driver of {_controller.Function} is {State}");
        }

        (_admin, _io) = (new Ring(AdminDepth), new Ring(Depth));
        _memory.Span[..ListsOffset].Clear();
        _controller.WriteRegister(NvmeRegister.AdminQueueAttributes, (AdminDepth - 1) | ((AdminDepth - 1) << 16));
        _controller.WriteRegister(NvmeRegister.AdminSubmissionQueue, AddressAt(0));
        _controller.WriteRegister(NvmeRegister.AdminCompletionQueue, AddressAt(AdminCompletionsOffset));
        _controller.WriteRegister(NvmeRegister.Configuration, NvmeRegister.Enable);
        State = NvmeDriverState.Enabling;
    }

    /// <summary>
    /// Takes the controller down, whatever it does: once <see cref="Poll"/> has come to
    /// <see cref="NvmeDriverState.Stopped"/>, it does no DMA and every transfer has ended, those under way with
    /// ECANCELED. It stays down until <see cref="Start"/>.
    /// </summary>
    public void Reset()
    {
        _host.AssertHeld();
        _restarts = false;
        if (State is not (NvmeDriverState.Stopped or NvmeDriverState.Resetting))
        {
            _controller.WriteRegister(NvmeRegister.Configuration, 0);
            State = NvmeDriverState.Resetting;
        }
    }

    /// <summary>
    /// Takes completions and goes on with what they made possible. Called after an interrupt, or at any time.
    /// </summary>
    /// <returns>Whether something happened.</returns>
    public bool Poll()
    {
        _host.AssertHeld();
        using SignalingSection section = new(_completions, "interrupt"); // each command has a fence somewhere
        ulong status = _controller.ReadRegister(NvmeRegister.Status);
        switch (State)
        {
            case NvmeDriverState.Resetting when status == 0:
                State = NvmeDriverState.Stopped;
                Hangs.HandleStopped(this);
                EndAll(NvmeStatus.AbortRequested);
                if (_restarts)
                {
                    _restarts = false;
                    Start();
                }

                return true;
            case NvmeDriverState.Stopped or NvmeDriverState.Failed or NvmeDriverState.Resetting:
                return false;
            case var _ when (status & NvmeRegister.Fatal) != 0:
                State = NvmeDriverState.Failed; // what is under way ends with the reset, not before
                _host.Trace("nvme.failed", _controller.Function.Name);
                return true;
            case NvmeDriverState.Enabling when (status & NvmeRegister.Ready) != 0:
                SendAdmin(CreateQueue(NvmeAdminOpcode.CreateCompletionQueue, CompletionsOffset, flags: 3));
                State = NvmeDriverState.CreatingCompletions;
                return true;
            case NvmeDriverState.Enabling:
                return false;
            default:
                return TakeAdmin() | TakeIo();
        }
    }

    /// <summary>Sends a command.</summary>
    /// <returns>
    /// <see cref="Errno.EAGAIN"/> when all slots are in use, <see cref="Errno.ENODEV"/> when the drive is not ready,
    /// <see cref="Errno.EINVAL"/> for an empty transfer, one over <see cref="NvmeControllerOptions.TransferBytesMax"/>,
    /// and one whose list is shorter than all blocks but the last, or too much broken up for one page of entries. What
    /// the last block has beyond the list is dropped by a read, and zero for a write.
    /// </returns>
    public Errno TrySubmit(NvmeTransfer transfer)
    {
        ArgumentNullException.ThrowIfNull(transfer);
        _host.AssertHeld();
        if (State != NvmeDriverState.Ready)
        {
            return Errno.ENODEV;
        }

        if (!_slots.TryPeek(out int slot))
        {
            return Errno.EAGAIN;
        }

        NvmeCommand command =
            NvmeCommand.Io(transfer.Opcode, transfer.NamespaceId, transfer.StartLba, transfer.BlockCount);
        command = command with { CommandId = (ushort)slot };
        int list = ListsOffset + (slot * PageBytes);
        if (transfer.Opcode != NvmeOpcode.Flush && !NvmePointerWriter.TryPoint(
            transfer, _memory.Span.Slice(list, PageBytes), AddressAt(list), AddressAt(ZerosOffset), ref command))
        {
            return Errno.EINVAL;
        }

        _slots.Pop();
        Outstanding++;
        transfer.Slot = slot;
        _transfers[slot] = transfer;
        Send(ref _io, SubmissionsOffset, 1, command);
        return Errno.Success;
    }

    /// <summary>
    /// Asks the controller to stop a transfer: it ends soon, with ECANCELED if the stop came in time. Nothing is lost
    /// when the ask itself is: the transfer ends anyhow.
    /// </summary>
    public void Abort(NvmeTransfer transfer)
    {
        ArgumentNullException.ThrowIfNull(transfer);
        _host.AssertHeld();
        if (State == NvmeDriverState.Ready && transfer.Slot >= 0)
        {
            transfer.AbortsLeft = AbortTries;
            SendAbort(transfer);
        }
    }

    bool IStoppableEngine.TryAbort(Fence late)
    {
        if (State != NvmeDriverState.Ready
            || Array.Find(_transfers, t => ReferenceEquals(t?.Fence, late)) is not { } transfer)
        {
            return false;
        }

        _host.Trace("nvme.abort", _controller.Function.Name, transfer.Slot);
        transfer.IsLate = true;
        Abort(transfer);
        return true;
    }

    EngineStop IStoppableEngine.Stop()
    {
        bool restarts = _restarts || State == NvmeDriverState.Ready; // told once for each late command
        Reset();
        _restarts = restarts;
        return State == NvmeDriverState.Stopped ? EngineStop.Stopped : EngineStop.Stopping;
    }

    private ulong AddressAt(int offset)
    {
        _addresses.TryLocate((ulong)offset, out DeviceAddress address, out _);
        return address.Value;
    }

    private NvmeCommand CreateQueue(NvmeAdminOpcode opcode, int offset, uint flags) => new()
    {
        Opcode = (byte)opcode,
        DataPointer1 = AddressAt(offset),
        Dword10 = 1 | ((Depth - 1) << 16),
        Dword11 = flags,
    };

    private void SendAdmin(in NvmeCommand command) => Send(ref _admin, 0, 0, command);

    private void Send(ref Ring ring, int offset, int queue, in NvmeCommand command)
    {
        command.Write(_memory.Span[(offset + (ring.Tail * NvmeCommand.SizeBytes))..]);
        ring.Tail = (ring.Tail + 1) % ring.Depth;
        ring.InFlight++;
        _controller.WriteRegister(NvmeRegister.SubmissionTail(queue), (ulong)ring.Tail);
    }

    private bool TakeAdmin()
    {
        bool any = false;
        while (TryTake(ref _admin, AdminCompletionsOffset, 0, out NvmeCompletion completion))
        {
            any = true;
            if (State is NvmeDriverState.Ready or NvmeDriverState.Failed)
            {
                HandleAborted(completion); // the transfer itself tells how it ended
                continue;
            }

            if (completion.Status != NvmeStatus.Success)
            {
                State = NvmeDriverState.Failed;
                _host.Trace("nvme.failed", _controller.Function.Name, (long)completion.Status);
            }
            else if (State == NvmeDriverState.CreatingCompletions)
            {
                const uint ContiguousOnFirst = 1 | (1 << 16);
                SendAdmin(CreateQueue(NvmeAdminOpcode.CreateSubmissionQueue, SubmissionsOffset, ContiguousOnFirst));
                State = NvmeDriverState.CreatingSubmissions;
            }
            else
            {
                State = NvmeDriverState.Ready;
            }
        }

        return any;
    }

    private bool TakeIo()
    {
        bool any = false;
        while (TryTake(ref _io, CompletionsOffset, 1, out NvmeCompletion completion))
        {
            any = true;
            End(completion.CommandId, completion.Status);
        }

        if (any)
        {
            AbortAgain();
        }

        return any;
    }

    private void SendAbort(NvmeTransfer transfer)
    {
        if (!_admin.HasRoom || transfer.IsAborting)
        {
            return;
        }

        SendAdmin(new NvmeCommand
        {
            Opcode = (byte)NvmeAdminOpcode.Abort,
            CommandId = (ushort)(AbortedCommand | transfer.Slot),
            Dword10 = 1 | ((uint)transfer.Slot << 16),
        });
        transfer.IsAborting = true;
    }

    // Bit 0 of the result: nothing was aborted. The command may have been in the queue still.
    private void HandleAborted(in NvmeCompletion completion)
    {
        int slot = completion.CommandId & ~AbortedCommand;
        if ((completion.CommandId & AbortedCommand) == 0 || slot >= CommandsMax)
        {
            return;
        }

        if (_transfers[slot] is not { } transfer)
        {
            Free(slot);
            return;
        }

        transfer.IsAborting = false;
        if ((completion.Result & 1) != 0 && --transfer.AbortsLeft > 0)
        {
            SendAbort(transfer);
        }
    }

    private void AbortAgain()
    {
        foreach (NvmeTransfer? transfer in _transfers)
        {
            if (transfer is { AbortsLeft: not null, IsAborting: false } && State == NvmeDriverState.Ready)
            {
                transfer.AbortsLeft = AbortTries;
                SendAbort(transfer);
            }
        }
    }

    private bool TryTake(ref Ring ring, int offset, int queue, out NvmeCompletion completion)
    {
        ReadOnlySpan<byte> entry = _memory.Span[(offset + (ring.Head * NvmeCompletion.SizeBytes))..];

        // The phase says that the rest is there: it is read first and written last.
        uint last = BinaryPrimitives.ReadUInt32LittleEndian(entry[12..]);
        Interlocked.MemoryBarrier();
        completion = NvmeCompletion.Read(entry);
        if ((last & 0x10000) != 0 != ring.Phase || ring.InFlight == 0)
        {
            return false;
        }

        ring.InFlight--;
        ring.Head++;
        if (ring.Head == ring.Depth)
        {
            (ring.Head, ring.Phase) = (0, !ring.Phase);
        }

        _controller.WriteRegister(NvmeRegister.CompletionHead(queue), (ulong)ring.Head);
        return true;
    }

    private void End(int slot, NvmeStatus status)
    {
        if (slot >= CommandsMax || _transfers[slot] is not NvmeTransfer transfer)
        {
            State = NvmeDriverState.Failed; // the controller completes what was never sent
            return;
        }

        _transfers[slot] = null;
        Outstanding--;
        if (!transfer.IsAborting)
        {
            Free(slot);
        }

        transfer.Slot = -1;
        transfer.Status = status;
        transfer.Ended?.Invoke(transfer);
    }

    // Not while an Abort for its number is under way, which must not meet another command.
    private void Free(int slot)
    {
        _slots.Push(slot);
        Tell(ref _roomMade);
    }

    private void Tell(ref Action? waiters)
    {
        if (waiters is { } callbacks)
        {
            waiters = null;
            _host.Defer(callbacks);
        }
    }

    private void EndAll(NvmeStatus status)
    {
        for (int slot = 0; slot < CommandsMax; slot++)
        {
            if (_transfers[slot] is { } transfer)
            {
                transfer.IsAborting = false; // its Abort is gone with the queue
                End(slot, status);
            }
            else if (!_slots.Contains(slot))
            {
                Free(slot);
            }
        }
    }

    private struct Ring(int depth)
    {
        public readonly int Depth = depth;
        public int Tail;
        public int Head;
        public int InFlight;
        public bool Phase = true;

        public readonly bool HasRoom => InFlight < Depth - 1;
    }
}
