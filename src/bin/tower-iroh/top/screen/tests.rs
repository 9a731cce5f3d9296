use ratatui::{backend::TestBackend, style::Color};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::top::{Options, scrape::tests::view};

fn screen() -> Screen {
    let mut screen = Screen::new("127.0.0.1:7001".to_owned(), Instant::now());
    screen.take(Ok(view()));
    screen
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> (Vec<String>, Terminal<TestBackend>) {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    let cells = terminal.backend().buffer().content();
    let lines = cells.chunks(usize::from(width).max(1)).map(|line| {
        let line: String = line.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    (lines.collect(), terminal)
}

/// The text that is red.
fn red(terminal: &Terminal<TestBackend>) -> String {
    let cells = terminal.backend().buffer().content().iter();
    cells
        .filter(|cell| cell.fg == Color::Red)
        .map(|cell| cell.symbol())
        .collect()
}

#[test]
fn a_usual_terminal_shows_every_column() {
    let (lines, terminal) = drawn(&mut screen(), 80, 24);
    let expected = [
        "127.0.0.1:7001  2.0 s",
        "breakers open (iroh): 1  packets sent as client: 200.0/s",
        "                    calls/s errors/s in flight      p50      p99 codes",
        "client db              26.0      5.0         3  2.80 ms    10 ms UNAVAILABLE 5.0",
        "…shop.v1.Stock/Get     25.0      5.0            3.25 ms    10 ms UNAVAILABLE 5.0",
        "…p.v1.Orders/Place      1.0      0.0            0.50 ms  0.99 ms",
        "server                  0.0      0.0         1        -        -",
    ];
    assert_eq!(lines[..expected.len()], expected, "{lines:#?}");
    assert_eq!(lines[23], "q quit  s sort: calls/s  p pause");
    assert_eq!(
        red(&terminal).split_whitespace().collect::<String>(),
        "breakersopen(iroh):15.05.0"
    );
}

#[test]
fn a_tiny_terminal_shows_the_busiest_and_scrolls() {
    let mut screen = screen();
    let (lines, _) = drawn(&mut screen, 20, 5);
    assert_eq!(
        lines,
        [
            "127.0.0.1:7001  2.0",
            "             calls/s",
            "client db       26.0",
            "….Stock/Get     25.0",
            "q quit  s sort: call",
        ],
    );
    for _ in 0..100 {
        screen.obey(Key::Scroll(10));
    }
    let (lines, _) = drawn(&mut screen, 20, 5);
    assert_eq!(
        lines[2..4],
        ["…ders/Place      1.0", "server           0.0"]
    );
    for (width, height) in [(0, 0), (1, 1), (3, 2), (500, 3), (12, 200)] {
        drawn(&mut screen, width, height);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_program_keeps_its_last_numbers() {
    let mut screen = screen();
    screen.take(Err(Failure::failed("127.0.0.1:7001 cannot be reached")));
    let (lines, terminal) = drawn(&mut screen, 80, 24);
    assert_eq!(
        lines[0],
        "127.0.0.1:7001  no answer for 0 s: cannot be reached"
    );
    assert!(lines[3].contains("26.0"), "{lines:#?}");
    assert!(red(&terminal).starts_with("  no answer"));
    screen.take(Ok(view()));
    assert_eq!(drawn(&mut screen, 80, 24).0[0], "127.0.0.1:7001  2.0 s");
}

#[test]
fn a_paused_screen_says_so_and_stays() {
    let mut screen = screen();
    screen.obey(Key::Pause);
    screen.take(Ok(View {
        seconds: 9.0,
        peers: Vec::new(),
        meters: Vec::new(),
    }));
    assert_eq!(
        drawn(&mut screen, 80, 24).0[0],
        "127.0.0.1:7001  2.0 s, paused"
    );
    screen.obey(Key::Pause);
    screen.take(Ok(View {
        seconds: 9.0,
        peers: Vec::new(),
        meters: Vec::new(),
    }));
    let (lines, _) = drawn(&mut screen, 80, 24);
    assert_eq!(lines[..2], ["127.0.0.1:7001  9.0 s", "no calls yet"]);
}

#[test]
fn the_sorted_column_is_marked() {
    let mut screen = screen();
    screen.obey(Key::Sort);
    let (lines, terminal) = drawn(&mut screen, 80, 24);
    assert_eq!(lines[23], "q quit  s sort: errors/s  p pause");
    let cells = terminal.backend().buffer().content().iter();
    let reversed = cells.filter(|cell| cell.modifier.contains(ratatui::style::Modifier::REVERSED));
    let reversed: String = reversed.map(|cell| cell.symbol()).collect();
    assert_eq!(reversed.trim(), "errors/s");
}

/// A program that has no calls, and its address.
async fn idle_program() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address").to_string();
    let serving = tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.read(&mut [0; 1024]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            let _ = io.write_all(answer).await;
        }
    });
    (addr, AbortOnDropHandle::new(serving))
}

#[tokio::test]
async fn keys_signals_and_a_lost_terminal_end_it() {
    let (addr, _serving) = idle_program().await;
    let options = Options {
        address: addr.parse().expect("an address"),
        interval: Duration::from_secs(3600),
        once: false,
        token_file: None,
    };
    let ended = async |pressed: Vec<std::io::Result<Key>>, signal: bool| {
        let source = Source::open(&options).await.expect("answered");
        let mut screen = Screen::new(addr.clone(), source.answered);
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a terminal");
        let (keys, received) = mpsc::channel(8);
        for key in pressed {
            keys.send(key).await.expect("received");
        }
        let signal = async move {
            if !signal {
                std::future::pending::<()>().await;
            }
        };
        let following = screen.follow(&mut terminal, source, received, signal);
        let ended = timeout(Duration::from_secs(30), following)
            .await
            .expect("in time");
        (ended, screen.sort)
    };
    let (quit, sort) = ended(vec![Ok(Key::Redraw), Ok(Key::Sort), Ok(Key::Quit)], false).await;
    assert!(quit.is_ok() && sort == Sort::Errors, "{quit:?}, {sort:?}");
    for (pressed, signal, code) in [
        (vec![Ok(Key::Interrupt)], false, INTERRUPTED),
        (vec![], true, INTERRUPTED),
        (vec![Err(std::io::Error::other("hung up"))], false, 1),
    ] {
        let failure = ended(pressed, signal).await.0.expect_err("ended early");
        assert_eq!(failure.exit_code(), code, "{failure}");
    }
}
