using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Checking;
using Wayleave.Core.Fences;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;
using Wayleave.Core.Topology;
using Wayleave.Host.Objects;
using Wayleave.Linux;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// Two accounts of one use. The attachment is that of a dynamic importer: it is told of moves and revokes, and its drain
// fence ends when the program says that it is out. The mapping is that of a process (BrokerMappings): it ends by the
// kernel's word alone, and with it a revoke.
//
//   unmapped --Map--> mapped --the owner moves or revokes--> told --Release--> unmapped
//                                                             |
//                       time-out: the move goes on; the pages that the buffer leaves are taken out (StorageReplaced),
//                       and the program maps nothing any more.  A revoke withdraws the pages (BrokerBuffers).

/// <summary>
/// A program's own device that uses a buffer and gives it back when told, as the dynamic importers of a kernel do. The
/// connection's thread calls what has no word about locks.
/// </summary>
internal sealed class BrokerImporter : IBrokerUse, IRevocableImporter
{
    private readonly BrokerSession _session;
    private readonly Action<uint, bool> _tell;
    private readonly HostContext _context;
    private readonly Timeline _timeline;
    private readonly UnstoppableEngine _engine;
    private Attachment? _attachment; // host lock, as what follows
    private BrokerMapping? _mapping;
    private SharedPages? _pages; // of the mapping
    private Fence? _drain;

    // Host lock held.
    private BrokerImporter(BrokerSession session, BrokerBuffer buffer, Action<uint, bool> tell)
    {
        (_session, Buffer, _tell, _context) = (session, buffer, tell, session.Host.Context);
        Name = $"importer of {session.Program.Holder}";
        _timeline = new Timeline(_context, Name);
        _engine = new UnstoppableEngine(Name);
    }

    public BrokerBuffer Buffer { get; }

    public string Name { get; }

    public ImporterKind Kind => ImporterKind.Dynamic;

    public bool AllowPeerToPeer => true;

    public string Holder => _session.Program.Holder;

    /// <summary>By which the program knows it; set before anything is mapped.</summary>
    public uint Number { get; set; }

    /// <summary>Begins to use a buffer.</summary>
    /// <param name="session">Of the connection.</param>
    /// <param name="buffer">Kept until <see cref="End"/>.</param>
    /// <param name="tell">
    /// Tells the program that number N has to stop, and whether for good; called on any thread, without the host lock.
    /// </param>
    /// <exception cref="WayleaveException">EOPNOTSUPP: the storage has no pages. ENODEV. EDQUOT.</exception>
    public static BrokerImporter Attach(BrokerSession session, BrokerBuffer buffer, Action<uint, bool> tell)
    {
        string operation = $"attach to {buffer.Shared.Name}";
        using (session.Host.Context.Enter())
        {
            BrokerImporter made = new(session, buffer, tell);
            Errno errno = buffer.Shared.IsRevoked ? Errno.ENODEV
                : buffer.Pages is null ? Errno.EOPNOTSUPP
                : Errno.Success;
            if (errno == Errno.Success)
            {
                session.Program.Ledger.Take(BrokerAccount.Keys, operation);
                errno = buffer.Shared.TryAttach(buffer.Device.Function, made, out Attachment? attachment);
                made._attachment = attachment;
                if (errno != Errno.Success)
                {
                    session.Program.Ledger.Give(BrokerAccount.Keys);
                }
            }

            if (errno != Errno.Success)
            {
                throw new WayleaveException(errno, operation, errno == Errno.EOPNOTSUPP
                    ? "no processor reaches such storage: allocate it movable or mappable"
                    : ErrnoMap.Describe(errno));
            }

            session.Store.Buffers.HoldLocked(buffer);
            session.Store.Importers.AddLocked(made);
            return made;
        }
    }

    /// <summary>
    /// Maps the buffer where it is now, once a move that is under way has ended. The caller sends and closes what it
    /// gets.
    /// </summary>
    /// <exception cref="WayleaveException">
    /// ENODEV: taken back, or it did not stop when told. EBUSY: it is mapped. EAGAIN: it moves again. EDQUOT.
    /// </exception>
    public FileDescriptor Map()
    {
        string operation = $"map {Buffer.Shared.Name}";
        SharedPages? pages = null;
        while (pages is null)
        {
            Buffer.Shared.Reservation.WaitAsync(_context, ReservationUsage.Kernel).GetAwaiter().GetResult();
            pages = TryMap(operation);
        }

        try
        {
            return pages.OpenForOthers();
        }
        catch (Exception e) when (e is LinuxException or ObjectDisposedException)
        {
            Unmap(operation);
            throw e is LinuxException failed
                ? ErrnoMap.ToException(failed, operation)
                : new WayleaveException(Errno.EAGAIN, operation, "it moves");
        }
    }

    /// <summary>
    /// The program says that it does not reach the memory any more: it has unmapped it and closed the descriptor.
    /// </summary>
    /// <exception cref="WayleaveException">EINVAL: it has mapped nothing.</exception>
    public void Release()
    {
        string operation = $"release {Buffer.Shared.Name}";
        bool isMapped;
        using (_context.Enter())
        {
            isMapped = _attachment!.State == MappingState.Mapped;
            if (!isMapped && !TryEndInvalidatedLocked())
            {
                throw new WayleaveException(Errno.EINVAL, operation, "it is not mapped");
            }
        }

        if (isMapped)
        {
            Unmap(operation);
        }

        _session.Store.Mappings.Settle(Buffer);
    }

    public InvalidateOutcome InvalidateMappings(Attachment attachment)
    {
        ArgumentNullException.ThrowIfNull(attachment);
        bool isRevoked = attachment.Buffer.IsRevoked;
        bool isMapped = attachment.State == MappingState.Invalidated;
        if (isRevoked || isMapped)
        {
            _context.Defer(() => _tell(Number, isRevoked));
        }

        if (!isMapped)
        {
            return InvalidateOutcome.Done;
        }

        if (_drain is not { HasEnded: false })
        {
            using SignalingSection section = new(Name, "drain");
            _drain = _timeline.CreateFence(); // signalled by Release, by the end of the connection, or by the time-out
            _session.Store.Importers.WatchLocked(_drain, _engine);
        }

        return InvalidateOutcome.Draining(_drain);
    }

    /// <summary>
    /// The pages were taken out from under the program: it reaches the memory no more, whatever it does. Host lock
    /// held.
    /// </summary>
    /// <param name="pages">Which.</param>
    public void HandlePagesGoneLocked(SharedPages pages)
    {
        if (!ReferenceEquals(_pages, pages))
        {
            return;
        }

        string witness = $"its pages are no memory of {Buffer.Device.Name} any more";
        (BrokerMapping? mapping, _mapping, _pages) = (_mapping, null, null);
        if (_attachment is { State: not MappingState.Unmapped } attachment)
        {
            _context.Trace("broker.importer_late", Name, (long)Buffer.Shared.Id);
            attachment.EndOfDeadUser(StopCause.StorageReplaced, witness);
            EndDrainLocked();
        }

        if (mapping is not null && !Buffer.Shared.IsRevoked)
        {
            _session.Store.Mappings.EndLocked(mapping);
        }
    }

    public void End()
    {
        string operation = $"detach from {Buffer.Shared.Name}";
        Unmap(operation);
        using (_context.Enter())
        {
            _session.Store.Importers.RemoveLocked(this);
            _session.Program.Ledger.Give(BrokerAccount.Keys);
            _session.Store.Programs.ForgetLocked(_session.Program);
        }

        _session.Store.Mappings.Settle(Buffer);
        using (_context.Enter())
        {
            Attachment attachment = _attachment!;
            _attachment = null;
            Buffer.Shared.Detach(attachment);
            _session.Store.Buffers.DropLocked(Buffer);
        }
    }

    // Null when another move has begun meanwhile.
    private SharedPages? TryMap(string operation)
    {
        Reservation reservation = Buffer.Shared.Reservation;
        AcquireTicket ticket = NewTicket(operation);
        reservation.LockAsync(_context, ticket).GetAwaiter().GetResult();
        using (_context.Enter())
        {
            try
            {
                if (reservation.FirstUnsignaled(ReservationUsage.Kernel) is not null)
                {
                    return null;
                }

                Attachment attachment = _attachment!;
                MapOutcome outcome = attachment.MapLocked(ticket, DmaDirection.Bidirectional);
                if (outcome.Kind != MapOutcomeKind.Mapped)
                {
                    throw new WayleaveException(outcome.Errno, operation, ErrnoMap.Describe(outcome.Errno));
                }

                try
                {
                    _mapping = BrokerMappings.OpenLocked(_session.Program, Buffer, operation);
                }
                catch
                {
                    attachment.UnmapLocked(ticket);
                    throw;
                }

                return _pages = Buffer.Pages;
            }
            finally
            {
                reservation.Unlock(ticket);
            }
        }
    }

    // Whatever state it is in, it is unmapped on return. The account of the process stays until the kernel says more.
    private void Unmap(string operation)
    {
        Reservation reservation = Buffer.Shared.Reservation;
        AcquireTicket ticket = NewTicket(operation);
        reservation.LockAsync(_context, ticket).GetAwaiter().GetResult();
        using (_context.Enter())
        {
            if (_attachment!.State == MappingState.Mapped)
            {
                _attachment.UnmapLocked(ticket);
                LetGoLocked();
            }
            else
            {
                TryEndInvalidatedLocked();
            }

            reservation.Unlock(ticket);
        }
    }

    private bool TryEndInvalidatedLocked()
    {
        if (_attachment!.State != MappingState.Invalidated)
        {
            return false;
        }

        using SignalingSection section = new(Name, "drain");
        _attachment.UnmapInvalidated();
        LetGoLocked();
        EndDrainLocked();
        return true;
    }

    // The place that a move leaves is handed on only when other pages are there, and needs no proof. Otherwise the
    // kernel's word ends the account.
    private void LetGoLocked()
    {
        (BrokerMapping? mapping, SharedPages? pages, _mapping, _pages) = (_mapping, _pages, null, null);
        if (mapping is null)
        {
            return;
        }

        if (ReferenceEquals(pages, Buffer.Pages))
        {
            mapping.IsLetGo = true;
        }
        else
        {
            _session.Store.Mappings.EndLocked(mapping);
        }
    }

    private void EndDrainLocked()
    {
        (Fence? drain, _drain) = (_drain, null);
        drain?.Signal();
    }

    private AcquireTicket NewTicket(string operation)
    {
        using (_context.Enter())
        {
            return new AcquireTicket(_context, $"{operation} by {_session.Program.Holder}");
        }
    }
}

/// <summary>
/// All uses of that kind, and the time that they have to stop. Members with Locked in their name are called with the
/// host lock held.
/// </summary>
internal sealed class BrokerImporters(HostContext context)
{
    private readonly List<BrokerImporter> _importers = []; // host lock
    private HangDetector? _late;

    /// <summary>How long a program may take to stop before a move goes on without it.</summary>
    internal TimeSpan AnswerMax { get; set; } = TimeSpan.FromSeconds(2);

    public void AddLocked(BrokerImporter importer) => _importers.Add(importer);

    public void RemoveLocked(BrokerImporter importer) => _importers.Remove(importer);

    /// <summary>From now on the program has to signal the fence, or it is forced.</summary>
    public void WatchLocked(Fence drain, UnstoppableEngine program)
    {
        _late ??= new HangDetector(context, AnswerMax, stopGrace: TimeSpan.Zero);
        _late.Add(drain, program);
    }

    /// <summary>Pages were taken out of a buffer.</summary>
    public void HandlePagesGoneLocked(SharedPages pages)
    {
        foreach (BrokerImporter importer in _importers.ToArray())
        {
            importer.HandlePagesGoneLocked(pages);
        }
    }

    /// <summary>Lets moves go on without those that do not answer. Takes the host lock.</summary>
    /// <returns>When to call again; null while nobody is waited for.</returns>
    public TimeSpan? HandleTimeout()
    {
        using (context.Enter())
        {
            _late?.HandleTimeout(context.Now);
            return _late?.NextDeadline is { } due
                ? TimeSpan.FromTicks(Math.Max((due - context.Now).Ticks, TimeSpan.TicksPerMillisecond))
                : null;
        }
    }
}
